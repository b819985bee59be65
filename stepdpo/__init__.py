"""What the scripts share: functions, a concept a file. Nothing here imports a script."""
