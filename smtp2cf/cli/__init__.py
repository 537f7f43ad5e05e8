"""The commands of `smtp2cf`, a module for each; `app` puts them together."""
