"""The whole story on real images: a champion, field failures, a repair, its verdict."""
