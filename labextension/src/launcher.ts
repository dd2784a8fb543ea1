import type { ILauncher } from '@jupyterlab/launcher';

/** After the server's own kernel, which has 0, and before all others, which have Infinity. */
const RANK = 1;

/**
 * Keep the sandbox kernels of a launcher beside one another.
 *
 * Its cards are those of the front end, which puts them into the categories that it knows and tells the
 * metadata of their kernelspecs; so what is left to say is their rank in there.
 */
export function groupKernels(launcher: ILauncher.IModel): void {
  const rank = () => {
    for (const item of launcher.items()) {
      const kernel = item.metadata?.['kernel'];
      if (kernel && 'vsandbox' in (kernel as object)) {
        item.rank = RANK;
      }
    }
  };
  launcher.stateChanged.connect(rank);
  rank();
}
