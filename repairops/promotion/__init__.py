"""What moves a production alias: a model logged anew, a repair promoted, a promotion undone; and the review before."""
