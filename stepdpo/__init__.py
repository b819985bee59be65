"""What the scripts stand on: functions, a concept a file. Nothing here imports a script. A map, to read in this order:

the domain      task (replace it to leave mathematics); answers, spelling, expressions, values, equality: the grader
rows            command (flags, errors, help), rows (JSONL), content (hashes), intervals, progress
a stage         stage (units, concurrency, exit codes), output and journal (what is written, what is done), ask
a prompt        prompts (the one text that asking and training share), chat (templates), tokens, steps (where one begins)
asking          policy (here or a server), reply, batching
  here          sampler, running (a batch that rows leave and join), cache, picking (temperature, top-p), hub
  a server      server, settings (what it takes), connection (how it fails)
judging         arithmetic (for judges/equations.py), prm (for judges/prm.py)
training        examples (rows to tokens), batches, reference, metrics, run and checkpoint (OUT, --resume), plan, signals
  the model     folder, weights (files to shards), shard, lora, scorer (log-probs for logits), trie, attention, paths,
                export
  over ranks    processes
  on a GPU      device (numbers that come without a wait, its peak)
"""
