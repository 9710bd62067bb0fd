"""Small tools that know nothing of distillation: files, processes, the command line, what a person sees."""
