"""The ``rl-agg`` command: errors that a user can correct are one line, without a traceback."""

import sys
from collections.abc import Sequence

from rl_agg.study.arguments import parser
from rl_agg.study.errors import StudyError, extras_named


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param arguments: Those after the program's name; ``None`` means the process's own.
    :return: Exit status: 0 done, 1 some cells failed, 2 the request cannot be carried out, 130 interrupted.
    """
    try:
        with extras_named():
            given = vars(parser().parse_args(arguments))
            status: int = given.pop("command")(**given)
            return status
    except StudyError as error:
        print(f"rl-agg: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"rl-agg: {error.filename}: {error.strerror}" if error.filename else f"rl-agg: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rl-agg: stopped; the same command continues with what is not finished", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
