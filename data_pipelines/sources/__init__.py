"""Where raw examples come from: manifests, folders, prepared sets, synthetic faces."""
