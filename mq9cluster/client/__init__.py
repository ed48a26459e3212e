"""The room of the Python SDK, which is not written yet.

It will import only `protocol` and `domain`, as pyproject.toml's contracts say of it already.
"""
