"""Published results of evaluations: records that are sealed, leaderboards that compare only what can be compared, attestations."""
