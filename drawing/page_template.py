"""Pages that programs write, made of the HTML templates in this folder and plain data, which the engine escapes."""
from pathlib import Path
from typing import Any


def filled(name: str, **values: Any) -> str:
    """The template of that name with its values. The engine is Jinja, which comes with torch."""
    import jinja2
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    engine = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return engine.get_template(name).render(values)
