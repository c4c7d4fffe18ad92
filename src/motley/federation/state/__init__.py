"""What all parties compute alike: updates judged, merged, and the shared parameters."""
