"""What several methods compute with: grids and their ranges, clusters, scores and masks, factors, ties between layers. No method is here."""
