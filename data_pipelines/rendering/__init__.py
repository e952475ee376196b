"""The parts of the synthetic face renderer; `data_pipelines.synthetic` puts them together."""
