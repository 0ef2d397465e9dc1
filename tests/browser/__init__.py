"""Label Studio's own editor in headless Chromium: what it draws of our regions, what it stores of what a mouse does."""
