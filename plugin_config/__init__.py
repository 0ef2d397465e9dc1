"""What both halves share: settings, errors, vocabulary, jobs, the Label Studio client. No torch, no web framework."""
