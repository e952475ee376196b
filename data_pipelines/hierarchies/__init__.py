"""Trees over the classes of a data set, as TOML files, and their reader."""
