"""Microsoft.Insights: the metrics of private links."""
