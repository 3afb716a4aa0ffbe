"""What plugins promise. Protocols for behaviour, frozen dataclasses for values; no torch, no pydantic at import.

Plugin authors import these names from ``llmasos.api``.
"""
