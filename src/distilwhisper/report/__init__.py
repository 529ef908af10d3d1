"""Reports on finished folders: a page for people, a card for the model."""
