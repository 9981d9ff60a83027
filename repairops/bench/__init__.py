"""The paper's benchmark: corruptions, subject networks, the grid of cells, tables and plots."""
