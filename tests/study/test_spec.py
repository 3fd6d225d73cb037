"""Reading a study: what is refused and how, what is filled in, and what makes two studies the same."""

import dataclasses
from pathlib import Path

import pytest

from rl_agg.study.errors import StudyError
from rl_agg.study.spec.loading import load_study, resolve
from rl_agg.study.spec.parsing import dumped, load_yaml
from rl_agg.study.spec.study import Budget, Environment, Quick, Study, System

SPEC = """
name: cartpole
baseline: sum
systems:
  sum: {system: "sb3_agg:AggPPO", settings: {aggregation: sum}}
  loss: {system: "sb3_agg:AggPPO", settings: {aggregation: l_weighted}}
environments:
  CartPole-v1: {num_agents: 4, threshold: 400, settings: {n_steps: 20, batch_size: null}}
seeds: 3
budget: {updates: 30}
quick: {budget: {updates: 2}, seeds: 1}
"""


def write(folder: Path, text: str, name: str = "spec.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_study_has_a_cell_for_each_combination(tmp_path):
    study = load_study(write(tmp_path, SPEC))
    assert [str(cell) for cell in study.cells] == [
        f"{system} on CartPole-v1, seed {seed}" for seed in range(3) for system in ("sum", "loss")
    ]
    assert len({cell.id for cell in study.cells}) == 6
    assert study.cells[0].environment.settings == {"n_steps": 20, "batch_size": None}
    assert study.cells[0].budget == Budget(updates=30)


def test_quick_overrides(tmp_path):
    study = load_study(str(write(tmp_path, SPEC)), quick=True)
    assert [cell.seed for cell in study.cells] == [0, 0]
    assert study.cells[0].budget == Budget(updates=2)


def test_quick_wins_over_an_environments_own_budget(tiny):
    environments = {"CartPole-v1": Environment(budget=Budget(updates=9))}
    assert tiny(environments=environments).cells[0].budget == Budget(updates=9)
    given = Study("s", "a", {"a": System("a:B")}, environments, quick=Quick(budget=Budget(env_steps=5)))
    assert resolve(given, quick=True).cells[0].budget == Budget(env_steps=5)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds: 3", "seedz: 3", ["unknown key 'seedz'", "did you mean 'seeds'"]),
        ("num_agents: 4", "num_agent: 4", ["environments.CartPole-v1", "'num_agent'", "did you mean 'num_agents'"]),
        ("updates: 30", "update: 30", ["budget", "did you mean 'updates'"]),
        ("seeds: 3", "seeds: three", ["seeds must be an integer or a list (an integer each)", "'three'"]),
        ("seeds: 3", "seeds: true", ["seeds must be an integer", "True"]),
        ("seeds: 3", "seeds: 0", ["seeds must be at least 1", "0"]),
        ("seeds: 3", "seeds: [1, 1]", ["different", "[1, 1]"]),
        ("seeds: 3", "seeds: [0, 4294967296]", ["from 0 to 4294967295", "4294967296"]),
        ("num_agents: 4", "num_agents: 4, scored_agents: [0, 0, 1]", ["scored_agents", "each once", "[0, 0, 1]"]),
        ("CartPole-v1:", "All environments:", ["no environment can be called 'All environments'"]),
        ("n_steps: 20", "n_steps: {0: 1.0, goal: 5}", ["settings.n_steps: a name must be text, got 0; put it in quotes"]),
        ("settings: {n_steps: 20", "settings: &own {n_steps: *own", ["not a YAML file", "recursive"]),
        ("name: cartpole", 'name: "half an emoji \\ud83d"', ["not a YAML file", "utf-16"]),
        ("seeds: 3", "seeds: [1, x]", ["seeds[1] must be an integer", "'x'"]),
        ("baseline: sum", "baseline: summ", ["unknown baseline 'summ'", "did you mean 'sum'", "loss, sum"]),
        ("{updates: 30}", "{updates: 30, env_steps: 5}", ["one of 'updates', 'env_steps' and 'seconds'", "5"]),
        ("{updates: 30}", "{}", ["one of 'updates', 'env_steps' and 'seconds'", "none"]),
        ("{updates: 30}", "{updates: 0}", ["above 0", "0"]),
        ("{updates: 30}", "{seconds: -1}", ["above 0", "-1"]),
        ("{updates: 30}", "{seconds: .nan}", ["above 0 and finite", "nan"]),
        ("{updates: 30}", "{seconds: .inf}", ["above 0 and finite", "inf"]),
        ("budget: {updates: 30}\n", "", ["CartPole-v1 has no budget"]),
        ("num_agents: 4", "num_agents: 0", ["num_agents must be from 1 to 65536", "0"]),
        ("num_agents: 4", "num_agents: 4.5", ["num_agents must be an integer", "4.5"]),
        ('"sb3_agg:AggPPO", settings: {aggregation: sum}', "PPO", ["'module:Class'", "'PPO'"]),
        ("name: cartpole", 'name: " "', ["a study needs a name, got ' '"]),
        ("name: cartpole", "name: a\x07b", [r"the character '\x07' after", "is not allowed"]),
        ("settings: {aggregation: sum}", "marix: {h: [1]}", ["unknown key 'marix'", "did you mean 'matrix'"]),
        ("name: cartpole\n", "", ["needs the key 'name'"]),
        ("seeds: 3", "seeds: 3\nseeds: 4", ["'seeds' comes twice"]),
        ("seeds: 3", "end_share: 2\nseeds: 3", ["end_share", "2"]),
        ("name: cartpole", "name: [", ["not a YAML file"]),
        ("threshold: 400", "threshold: .inf", ["CartPole-v1.threshold must be finite", "inf"]),
        ("n_steps: 20", "n_steps: 2026-11-21", ["settings.n_steps must be text", "2026", "in quotes"]),
        ("seeds: 3", "{h}: 3", ["a name must be text; put it in quotes"]),
    ],
)
def test_bad_specs_are_refused_in_one_message(tmp_path, old, new, words):
    assert old in SPEC
    with pytest.raises(StudyError) as caught:
        load_study(write(tmp_path, SPEC.replace(old, new)))
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(StudyError, match="cannot read"):
        load_study(tmp_path / "nothing.yaml")


def test_quick_without_overrides_is_an_error(tmp_path):
    text = "\n".join(line for line in SPEC.splitlines() if not line.startswith("quick"))
    with pytest.raises(StudyError, match="no 'quick' overrides"):
        load_study(write(tmp_path, text), quick=True)


@pytest.mark.parametrize("quick", ["quick:", "quick: {}"])
def test_empty_quick_overrides_are_refused(tmp_path, quick):
    with pytest.raises(StudyError, match="no 'quick' overrides"):
        load_study(write(tmp_path, SPEC.replace("quick: {budget: {updates: 2}, seeds: 1}", quick)), quick=True)


def test_numbers_without_a_point_are_numbers(tmp_path):
    assert load_yaml(write(tmp_path, "{a: 1e-3, b: 2E5, c: 1.5e+2, d: e5, e: 12}")) == {
        "a": 0.001,
        "b": 200000.0,
        "c": 150.0,
        "d": "e5",
        "e": 12,
    }


def test_numbers_may_be_the_names_of_nested_settings(tmp_path):
    study = load_study(write(tmp_path, SPEC.replace("n_steps: 20", "n_steps: {0: 1.0, 1: 5}")))
    assert load_study(write(tmp_path, dumped(study.to_mapping()))) == study


def test_an_emoji_as_json_writes_it_is_one_character(tmp_path):
    assert load_study(write(tmp_path, SPEC.replace("name: cartpole", 'name: "\\ud83d\\ude80"'))).name == "🚀"


def test_a_stored_study_reads_back_the_same(tmp_path):
    # text that looks like a number, as system, environment and setting
    text = (
        SPEC.replace("sum:", '"1e-3":').replace("baseline: sum", 'baseline: "1e-3"').replace("n_steps: 20", 'n_steps: "2e5"')
    )
    study = load_study(write(tmp_path, text))
    assert "1e-3" in study.systems
    again = load_study(write(tmp_path, dumped(study.to_mapping()), "again.yaml"))
    assert again == study
    assert again.key == study.key


def test_only_what_decides_the_records_makes_another_study(tiny):
    study = tiny()
    environment = study.environments["CartPole-v1"]
    for same in (
        tiny(name="another title", baseline="loss", end_share=0.5),
        tiny(environments={"CartPole-v1": dataclasses.replace(environment, threshold=99.0)}),
        tiny(systems=dict(reversed(study.systems.items()))),
    ):
        assert same.key == study.key
    for other in (
        tiny(seeds=3),
        tiny(budget=Budget(updates=4)),
        tiny(systems={**study.systems, "stock": System("stable_baselines3:PPO", {"gamma": 0.9})}),
        tiny(environments={"CartPole-v1": dataclasses.replace(environment, env_kwargs={"sutton_barto_reward": True})}),
        tiny(environments={"CartPole-v1": dataclasses.replace(environment, num_agents=2)}),
    ):
        assert other.key != study.key


def test_cells_with_names_alike_in_a_file_name_stay_apart(tiny):
    systems = {"stock": System("a:B"), "a/b": System("a:B"), "a b": System("a:B"), "../up": System("a:B")}
    ids = [cell.id for cell in tiny(systems=systems, seeds=1).cells]
    assert len(set(ids)) == 4
    assert all("/" not in id_ and " " not in id_ for id_ in ids)


def test_any_name_makes_a_file_name(tiny, tmp_path):
    name = "система" * 20
    study = tiny(systems={name: System("sb3_agg:AggPPO")}, baseline=name)
    (tmp_path / f"{study.cells[0].id}.parquet").touch()
