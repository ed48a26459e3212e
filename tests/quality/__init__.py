"""The quality of search: cards, queries written beforehand, baselines and the measure."""
