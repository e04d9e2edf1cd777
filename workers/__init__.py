"""Who does the slow work: the dispatcher that follows the log, and the Celery tasks that plan and load."""
