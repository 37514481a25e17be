"""Whether the source that faster ways of computing stand in for is still what they compute."""

import functools
import hashlib
import inspect
import io
import textwrap
import tokenize
import warnings
from collections.abc import Callable

import torch

# By name, the fingerprint of what is computed faster (layers/kernels, layers/shares.py, spectra).
# To change one: docs/kernels.md, "To add".
PUBLISHED = {
    "HGRU.forward": "698f4b1dbed985ea",
    "HGRU._normalise": "1d3a0fcf06f75b0e",
    "HorizontalKernel.__call__": "acd983a17bd7590a",
    "direct_convolution": "ce2faa7f1de6e324",
    "same_padding": "9fd0838ca282734c",
    "BatchNormalisation.forward": "64f4d3ae0ede1e23",
    "BatchNormalisation._by_this_process": "b813e211834fda36",
    "BatchNormalisation._by_all_processes": "e2dfceba8b5faecb",
    "BatchNormalisation.observe": "fa6ac35777d95942",
    "BatchNormalisation._move_running_averages": "d03cdb690516e653",
}
SPELT = (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)
STRUCTURE = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)  # where lines end and blocks lie


@torch.compiler.assume_constant_result
def as_published(*functions: Callable) -> bool:
    """Whether all these are as published. Of each that is not, a warning says so, once."""
    return all([_is_published(function) for function in functions])


@functools.cache
def _is_published(function: Callable) -> bool:
    name = function.__qualname__
    published = PUBLISHED.get(name)
    try:
        same = fingerprint(function) == published
    except OSError:  # there is no source to look at, hence none that was edited
        same = published is not None
    if not same:
        warnings.warn(
            f"{name} was edited: it is computed as it stands, and not by what is faster for the "
            "published equations (fused kernels on a GPU, spectra and shared images on a CPU)",
            stacklevel=3,
        )
    return same


def fingerprint(function: Callable) -> str:
    """A number of the function's source, whatever its comments, blank lines and white space."""
    digest = hashlib.sha256()
    source = textwrap.dedent(inspect.getsource(function))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in SPELT:
            digest.update(f"{token.string} ".encode())
        elif token.type in STRUCTURE:
            digest.update(f"{tokenize.tok_name[token.type]} ".encode())
    return digest.hexdigest()[:16]
