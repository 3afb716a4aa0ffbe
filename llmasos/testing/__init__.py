"""For people who write plugins, and for this repository's own tests: fixtures, throw-away plugins, conformance checks.

``llmasos.testing.pytest_plugin`` is registered with pytest and gives the fixtures ``hub``, ``tmp_plugin``, ``no_network``
and ``import_budget`` and the option ``--llmasos-conformance``; docs/how-to/test-a-plugin.md shows them in use.
"""
