"""Support for the tests: small models, data and kernels. Imported as `tests.support.NAME`."""
