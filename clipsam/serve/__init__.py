"""The service: photos come over HTTP, a warm segmenter answers, people review on a page.

Start reading in `app.py`; `worker.py` holds the models, `guard.py` what stands before every request.
"""
