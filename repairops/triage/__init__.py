"""Which unlabelled images of the field are most worth a label."""
