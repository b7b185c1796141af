// Runs graphile-worker on jobs that do nothing and prints one JSON line: how many it finished, in how many seconds.
import { run } from "graphile-worker";

const [concurrency, seconds, batched] = process.argv.slice(2).map(Number);
let done = 0;
let started = 0;
const worker = {
  connectionString: process.env.RIVAL_URL,
  maxPoolSize: 20,
  pollInterval: 100,
  concurrentJobs: concurrency,
  ...(batched ? { localQueue: { size: 500 }, completeJobBatchDelay: 0 } : {}),
};
const runner = await run({
  preset: { worker },
  noHandleSignals: true,
  logger: undefined,
  taskList: {
    noop: async () => {
      if (done === 0) started = performance.now();
      done += 1;
    },
  },
});
await new Promise((resolve) => setTimeout(resolve, seconds * 1000 + 1000));
const took = (performance.now() - started) / 1000;
console.log(JSON.stringify({ done, seconds: took }));
await runner.stop();
process.exit(0);
