"""Sources of raw examples: manifests, folders, prepared sets, synthetic faces."""
