"""Asks for several answers at once, which share the passes of the model: openai_async.py [http://127.0.0.1:8080/v1].

Needs `pip install openai`, and a server with a chat template.
"""

import asyncio
import sys

import openai

RIVERS = ("the Nile", "the Amazon", "the Rhine", "the Yangtze")


async def main(url: str) -> None:
    """All of them, and one more that is left in the middle."""
    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
        model = (await client.models.list()).data[0].id

        async def ask(river: str) -> str:
            answer = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": f"Where is {river}?"}], max_tokens=32
            )
            return answer.choices[0].message.content or ""

        for river, answer in zip(RIVERS, await asyncio.gather(*map(ask, RIVERS)), strict=True):
            print(f"{river}: {answer}")

        # Leaving a stream ends its text.
        async with await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Count to a thousand."}], stream=True
        ) as stream:
            count = 0
            async for _ in stream:
                count += 1
                if count == 8:
                    break
        print(f"left after {count} chunks")


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/v1"))
