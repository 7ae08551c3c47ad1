"""The agent's control process as the tests start it: ``program.py '{"flags": {...}, "timing": {...}}'``."""

import json
import sys

from isthmus.agent import config, control
from isthmus.kit.backoffs import BackoffConfig
from isthmus.kit.errors import IsthmusError
from isthmus.wire.names import Role


def main() -> int:
    given = json.loads(sys.argv[1])
    waits = {
        name: BackoffConfig(**value) if isinstance(value, dict) else value for name, value in given["timing"].items()
    }
    if "default_roles" in given:
        config.DEFAULT_ROLES = tuple(map(Role, given["default_roles"]))  # type: ignore[misc]
    try:
        return control.run(config.load(given["flags"]).config, config.Timing(**waits))
    except IsthmusError as error:
        print(f"error: {error}: {error.hint}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
