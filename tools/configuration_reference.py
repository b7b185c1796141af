"""Print docs/configuration.md from the table of settings: `python tools/configuration_reference.py > docs/configuration.md`."""

from probity.config import SETTINGS, Setting

HEAD = """# Configuration

Probity reads its settings once, at start, from the environment. If some are wrong it names all of them and does not start.
A secret may be given as a file: `X_FILE=/run/secrets/x` instead of `X`. `probity up` fills in the database and the keys by itself.

| Variable | Also read as | Default | Meaning |
|---|---|---|---|
"""


def reference() -> str:
    """Return the whole page."""
    return HEAD + "".join(_row(setting) for setting in SETTINGS)


def _row(setting: Setting) -> str:
    name, *others = setting.names
    aliases = ", ".join(f"`{other}`" for other in others)
    default = f"`{setting.default}`" if setting.default else ("none" if not setting.is_secret else "none; secret")
    return f"| `{name}` | {aliases} | {default} | {setting.about} |\n"


if __name__ == "__main__":
    print(reference(), end="")
