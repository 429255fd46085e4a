"""Several machines, by Ray Serve and Ray Data (extra ``ray``).

``serve run frspec_cpp.ray:app model=target.gguf replicas=2`` serves OpenAI's clients from replicas behind one address;
:class:`Generate` writes behind the texts of a data set, :func:`count_ranks` ranks its tokens.
"""

from frspec_cpp.ray.bulk import Generate, count_ranks
from frspec_cpp.ray.ingress import app

__all__ = ["Generate", "app", "count_ranks"]
