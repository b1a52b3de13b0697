"""Parts of the side-by-side harness: processes and what they cost, configuration of the contenders, scenarios."""
