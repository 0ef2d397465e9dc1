"""What was learned of a project: its versions on disk, which one is served, going back."""
