"""pytest run by a test: without the plugins that are installed here, which cost more than the rest of it."""

BARE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""For the run's environment. What it needs, xdist for one, it names with -p; so do xdist's workers."""
