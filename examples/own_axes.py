"""A gate, a codec and a rule of one's own, used by name: python examples/own_axes.py"""

import torch
from stable_baselines3.common.env_util import make_vec_env

from rl_agg import Codec, register_codec, register_gate, register_rule
from rl_agg.codecs import Encoded
from rl_agg.gates import VectorGate
from sb3_agg import AggPPO


class Turned(VectorGate):
    """Send a vector that points elsewhere than the last one sent; otherwise the server uses that one again."""

    def decide(self, offer):
        return torch.cosine_similarity(offer.vectors, offer.last) < 0.1


class Signs(Codec):
    """Send the sign of every number in 1 bit, and the mean magnitude as a float32."""

    def __call__(self, rows):
        size = rows.abs().mean(1, keepdim=True)
        return Encoded(rows.sign() * size, torch.full((len(rows),), rows.shape[1] + 32))


def softmax(signals, *, temperature=1.0):
    """Weights that grow exponentially with the return, in standard deviations."""
    return torch.softmax(signals.returns / (temperature * (signals.returns.std() + 1e-8)), dim=0)


register_gate("turned", Turned)
register_codec("signs", Signs)
register_rule("softmax", softmax, needs=["returns"])

torch.set_num_threads(1)  # networks this small learn faster on one
env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
own = {"communication": "turned", "compression": "signs", "aggregation": "softmax"}
model = AggPPO("MlpPolicy", env, **own, n_steps=128, batch_size=256, seed=0, device="cpu").learn(8_192)
print(f"weights {model.agent_weights.round(2)}; {model.ledger.messages} messages, {model.ledger.bytes} bytes")
