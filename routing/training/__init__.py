"""How the classifier's weights were made: labelled prompts and a re-runnable fit. Nothing here runs in the gateway."""
