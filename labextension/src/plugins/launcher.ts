import type {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ILauncher } from '@jupyterlab/launcher';
import { groupKernels } from '../launcher';

export const launcher: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-vsandbox:launcher',
  description: 'Keeps the sandbox kernels beside one another in the launcher.',
  autoStart: true,
  optional: [ILauncher],
  activate: (app: JupyterFrontEnd, launcher: ILauncher | null) => {
    // Other extensions may bring a launcher that has no such model.
    if (launcher && 'items' in launcher && 'stateChanged' in launcher) {
      groupKernels(launcher as ILauncher.IModel);
    }
  }
};
