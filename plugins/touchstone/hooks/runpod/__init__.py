"""
RunPod behind one protocol of our own: ``PodApi``.

REST v2 is the backend for everything that is about pods; the ``runpod`` SDK (GraphQL, to be
retired early in 2027) is kept behind the same protocol for what only GraphQL knows: the balance.
Nothing here imports the SDK before it is used, because that takes seconds.
"""
