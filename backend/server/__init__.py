"""Waitress, made to answer whatever connections do that never finish a request. It must not know what routes do."""
