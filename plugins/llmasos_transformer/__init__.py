"""The transformer of LLMasOS: written once in plain torch, assembled by data.

Read it in this order: ``ops`` (what each operator means), ``layers`` (attention, feed-forward, norms, a block),
``model`` (decoder and encoder), ``families`` (which sizes and which checkpoint names each family has), ``architecture``
(checking and loading a checkpoint). ``weights`` holds the file formats.
"""
