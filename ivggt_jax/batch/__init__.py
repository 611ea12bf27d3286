"""Many videos, each as `infer` runs it: on the processes of one machine, or on a Ray cluster."""
