"""The commands of `r1kit`, a module each; `r1kit.cli` puts them together."""
