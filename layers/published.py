"""Whether the source that faster ways of computing stand in for is still what they compute."""

import functools
import hashlib
import inspect
import io
import textwrap
import tokenize
import warnings
from collections.abc import Callable
from types import CodeType

import torch

# By name, the fingerprint of what is computed faster (layers/kernels, layers/shares.py, spectra).
# To change one: docs/kernels.md, "To add".
PUBLISHED = {
    "HGRU.forward": "790d67e392c443ce",
    "HGRU._normalise": "6249b11e23f8b2a8",
    "HorizontalKernel.__call__": "afeb0ee6dd27c41b",
    "direct_convolution": "ce2faa7f1de6e324",
    "same_padding": "9fd0838ca282734c",
    "BatchNormalisation.forward": "70253ec7971f587f",
    "BatchNormalisation._by_this_process": "dd16374f23892e3a",
    "BatchNormalisation._by_all_processes": "e2dfceba8b5faecb",
    "BatchNormalisation.observe": "fa6ac35777d95942",
    "BatchNormalisation._move_running_averages": "57ad6e1cab931228",
}
SPELT = (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)
STRUCTURE = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)  # where lines end and blocks lie


@torch.compiler.assume_constant_result
def as_published(*functions: Callable) -> bool:
    """Whether all these are as published: functions, or an object's methods, as it may have others
    than its class. Of each that is not, a warning says so, once."""
    found = [getattr(one, "__func__", one) for one in functions]
    return all([_is_published(one, getattr(one, "__code__", None)) for one in found])


@functools.cache
def _is_published(function: Callable, code: CodeType | None) -> bool:
    """`code`: what the function runs now, as IPython's autoreload puts an edit into it."""
    name = getattr(function, "__qualname__", repr(function))
    published = PUBLISHED.get(name)
    try:
        same = published is not None and fingerprint(function) == published
    except OSError:  # there is no source to look at, hence none that was edited
        same = True
    if not same:
        warnings.warn(
            f"{name} was edited: it is computed as it stands, and not by what is faster for the "
            "published equations (fused kernels on a GPU, spectra and shared images on a CPU)",
            stacklevel=3,
        )
    return same


def fingerprint(function: Callable) -> str:
    """A number of the function's source and of what wraps it, whatever their comments, blank lines
    and white space."""
    digest = hashlib.sha256()
    if hasattr(function, "__wrapped__"):
        digest.update(fingerprint(function.__wrapped__).encode())
    source = textwrap.dedent(inspect.getsource(function.__code__))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in SPELT:
            digest.update(f"{token.string} ".encode())
        elif token.type in STRUCTURE:
            digest.update(f"{tokenize.tok_name[token.type]} ".encode())
    return digest.hexdigest()[:16]
