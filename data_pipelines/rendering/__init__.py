"""Parts of the synthetic face renderer, which `sources.synthetic` combines."""
