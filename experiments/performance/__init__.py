"""What collecting, drawing and predicting cost, beside other libraries and beside the limit of the "
"machine."""
