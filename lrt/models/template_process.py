"""The child process that renders chat templates. Run as a script; it imports jinja2 and nothing else.

A chat template is a program of whoever wrote the checkpoint. It runs here, in jinja2's sandbox and under
limits of the operating system, and not in the process that holds models and keys. The environment is the one
that transformers documents for templates, with the clock and the random generator fixed.

Reads one JSON request a line from standard input and writes one JSON reply a line:

- `{"template", "variables"}`: renders; the reply is `{"text"}`
- `{"template"}`: names what the template reads; the reply is `{"reads"}`

or `{"error"}`, where the template refuses the conversation, or `{"unusable"}`, where it goes beyond a limit.
A request's `"seconds"` of processor time end the process.
"""

import contextlib
import functools
import json
import random
import re
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.sandbox

NOW = datetime(2024, 7, 26)  # without a time zone, as from transformers
MEMORY_BYTES = 2**29
ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+>")  # how Python ends the text of an object without one of its own
LONGEST_TEXT = 1_000_000  # characters, beside 10 for each character of the variables
# imports what Python and jinja2 import late, as long as files can be opened; the last block raises
WARM_UP = (
    r"{{ 'a\n' | wordwrap }}{{ 'a' | pprint }}{{ lipsum(n=1) }}{{ strftime_now('%B') }}"
    r"{{ '%d' | format('a') }}"
)


class TooLong(Exception):
    """A text beyond the limit."""


class WritesAddress(Exception):
    """A text with an object's address in memory, which is another one in each process."""


class GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}`: marks what an assistant writes, for training; here it renders its content."""

    tags = {"generation"}  # noqa: RUF012 -- as its base class declares it

    def parse(self, parser: Any) -> Any:
        number = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(number)

    def _content(self, caller: Any) -> str:
        return str(caller())


def environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """The environment that templates expect: transformers' blocks, filters and functions."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(str(message))

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = NOW.strftime
    return made


def forbid_resources() -> None:
    """Limit memory, and forbid files and processes, where the operating system has such limits."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    limits = {
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_NOFILE: 3,  # standard input, output and error
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        with contextlib.suppress(ValueError, OSError):  # macOS has no limit of memory
            resource.setrlimit(kind, (limit, limit))


@contextlib.contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """End this process after these seconds of its own time: a busy machine is no fault of a template."""
    timer = getattr(signal, "setitimer", None)  # none on Windows, where the parent's limit holds
    if timer is None:
        yield
        return
    timer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        timer(signal.ITIMER_PROF, 0)


def render(template: jinja2.Template, variables: dict[str, Any]) -> str:
    """The text. Raises whatever the template raises, TooLong, and WritesAddress."""
    random.seed(0)
    written_variables = json.dumps(variables)
    longest = LONGEST_TEXT + 10 * len(written_variables)
    parts, length = [], 0
    for part in template.generate(variables):
        parts.append(part)
        length += len(part)
        if length > longest:
            raise TooLong(f"it writes more than {longest:,} characters")
    text = "".join(parts)
    for address in ADDRESS.findall(text):
        if address not in written_variables:  # a message may speak of one
            raise WritesAddress("it writes a function or an object where a text must be; is a call missing?")
    return text


def answer(
    made: jinja2.Environment, compiled: Callable[[str], jinja2.Template], request: dict[str, Any]
) -> dict[str, Any]:
    """The reply to a request."""
    try:
        if "variables" in request:
            return {"text": render(compiled(request["template"]), request["variables"])}
        return {"reads": sorted(jinja2.meta.find_undeclared_variables(made.parse(request["template"])))}
    except TooLong as error:
        return {"unusable": str(error)}
    except MemoryError:
        return {"unusable": f"it needs more than {MEMORY_BYTES / 2**30:g} GiB of memory"}
    except RecursionError:
        return {"error": "it is nested too deeply"}
    except Exception as error:  # a template can raise anything
        return {"error": f"{error}" or type(error).__name__}


def replies(lines: Iterator[str]) -> Iterator[str]:
    """The replies to requests, as JSON without line breaks. Limits this process first."""
    made = environment()
    answer(made, made.from_string, {"template": WARM_UP, "variables": {}})
    forbid_resources()
    compiled = functools.lru_cache(maxsize=8)(made.from_string)
    for line in lines:
        request = json.loads(line)
        with ended_after(request["seconds"]):
            reply = answer(made, compiled, request)
        yield json.dumps(reply)


if __name__ == "__main__":
    for reply in replies(iter(sys.stdin)):
        print(reply, flush=True)
