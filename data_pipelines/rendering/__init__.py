"""The parts of the synthetic face renderer; `sources.synthetic` puts them together."""
