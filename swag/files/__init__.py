r"""Posteriors, collectors and ensembles as files: safetensors with a JSON header, never a pickle.

The safetensors metadata holds one key, "swag", whose value is JSON:

    {"format_version": 1, "swag_version": …, "object": {"kind": …, "layout": […], …}, "provenance": {…}}

`kind` is one of point_mass, low_rank_gaussian, empirical, mixture, collector, ensemble; a mixture's
components are nested objects whose tensors carry the prefix "0/", "1/", …. A layout is a list of
{name, shape, dtype}.
`provenance` may be missing: text and numbers by name, for people. A field, a kind, a tensor or a version that
this library does not know is an error: a file is read whole or not at all.
"""

from swag.files.kinds import FORMAT_VERSION
from swag.files.store import FileInfo, describe, load, save, save_swag

__all__ = ["FORMAT_VERSION", "FileInfo", "describe", "load", "save", "save_swag"]
