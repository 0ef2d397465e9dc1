"""Every Redis key, who writes it, and what may happen to it. Depends on no Label Studio and no model."""
