"""What runs: jobs, leases, the pipeline, posting, reconciling; stands on the libraries."""
