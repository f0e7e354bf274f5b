"""The app in a browser, made with Gradio: ask about a picture, and click the words of the answer.

Import `create_app` from `blocks`, the page, and `run` from `run`, which serves it; both need the extra ``app``.
`answers` and `pictures` are what the page asks and shows, without Gradio.
"""
